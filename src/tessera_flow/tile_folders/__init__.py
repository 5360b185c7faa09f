"""Read, write and embed tile folders of the reference pipeline."""
