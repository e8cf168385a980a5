"""Layer 2: loading, adapters, heads, merging and export of models."""

import logging

# bitsandbytes warns when peft imports it (of a kernel that is only on the hub) and, in 8 bits, a layer and call.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
