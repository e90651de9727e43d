"""The quick start: three demos, each a study of data that needs no download, with pictures and a report."""
