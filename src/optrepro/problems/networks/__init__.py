"""Networks: classic ones, transformers, pretrained models of the Hugging Face hub, and adapters."""
