"""`vit finetune`."""
