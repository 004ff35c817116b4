"""Imported before other people's packages: what bitsandbytes says on its import, of kernels that are not there, is no line of ours."""

import logging

logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
