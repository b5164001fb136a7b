"""The benchmarks of ScanNet200 and of Replica: classes, ground truth in their formats, and what is measured."""
