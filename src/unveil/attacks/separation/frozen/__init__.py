"""BatchNorm in train mode with statistics that the client sent: its images are independent of each other again."""
