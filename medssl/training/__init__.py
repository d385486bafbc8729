"""Training: pretraining without labels, fine-tuning, and a trained model on new scans."""
