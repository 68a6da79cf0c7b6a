"""What is wrong with a recorded update, told from its tensors, the weights before it, the network and the manifest."""
