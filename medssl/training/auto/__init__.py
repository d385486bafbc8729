"""What `medssl plan` and `medssl pretrain --method auto` choose, by which rules, and how long it will take."""
