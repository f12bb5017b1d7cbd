"""Tables and pictures, made only from the files of records."""

import os

# Pictures go to files. A notebook's backend, which its commands inherit, may not be installed.
os.environ["MPLBACKEND"] = "agg"
