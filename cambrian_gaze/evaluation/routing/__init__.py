"""Does routing find the right place? Captions whose phrases have segmentation masks: a token is right when a region
that the query predicting it looks at overlaps the mask of its phrase."""
