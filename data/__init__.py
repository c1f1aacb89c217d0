"""Image data: sources, augmentation on the host, and batches on the device."""
