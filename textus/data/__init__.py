"""From files to batches: corpora, labelled rows, token ids, loaders."""
