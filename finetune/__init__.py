"""Programs on converted timm weights: k-nearest neighbours and linear probing."""
