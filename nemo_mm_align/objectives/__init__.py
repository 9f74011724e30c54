"""What is made of a model's last hidden states: what an objective reads of them, and the losses that recipes share."""
