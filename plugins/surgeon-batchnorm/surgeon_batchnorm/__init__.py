"""BatchNormalization behind convolutions whose own was folded away, while training lasts."""
