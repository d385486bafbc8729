"""Techniques of fine-tuning with few labels, one file each; `FinetuneConfig` switches them on."""
