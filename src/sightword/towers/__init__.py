"""Pretrained encoders behind one interface: whatever a tower reads, it returns `Encoded`."""
