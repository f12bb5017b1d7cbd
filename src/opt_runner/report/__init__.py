"""Tables and pictures of records, and nothing else of them."""

import os

# Pictures go to files. A notebook's backend, which its commands inherit, may not be installed.
os.environ["MPLBACKEND"] = "agg"
