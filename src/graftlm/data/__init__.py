"""Layer 2: from files to packed batches. Readers, record schemas, templates, cleaning, token store, mixing, packing."""
