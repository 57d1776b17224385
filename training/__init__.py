"""Train captioners on COCO-format data."""
