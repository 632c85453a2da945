"""Networks that are trained: classic ones, transformers, pretrained models of a hub, and adapters."""
