"""What a MONAI bundle runs: copied into its folder `scripts`, where no medssl is needed. Imports only what MONAI brings."""
