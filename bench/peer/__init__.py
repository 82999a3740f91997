"""Contenders of the PyTorch peer; bench/peer_torch.py is the entry."""
