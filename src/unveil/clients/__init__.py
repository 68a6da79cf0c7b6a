"""What a client holds and does: its model, its pictures, its local training."""
