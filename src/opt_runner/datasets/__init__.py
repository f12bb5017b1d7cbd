"""Data of runs: their sources, tasks, batches on the device, and augmentation."""

from opt_runner.datasets.ahead import pieces
from opt_runner.datasets.augment import Augment
from opt_runner.datasets.augmentation import Augmentation
from opt_runner.datasets.batches import Batches
from opt_runner.datasets.data import Data, Interface, Measure, Samples, Tally
from opt_runner.datasets.dataset import Dataset, loaded, measure_of
from opt_runner.datasets.digits import Digits
from opt_runner.datasets.folder.image_folder import ImageFolder
from opt_runner.datasets.form import Form, normalise
from opt_runner.datasets.graph import Graph, GraphFile
from opt_runner.datasets.images import Images
from opt_runner.datasets.labelled import Labelled
from opt_runner.datasets.mix import Mix
from opt_runner.datasets.points import PointFolder, Points
from opt_runner.datasets.rand_augment import RandAugment
from opt_runner.datasets.stored import Stored
from opt_runner.datasets.text import Text, TextFile
from opt_runner.datasets.torchvision_sets import TorchvisionSet, published_set

__all__ = [
    "Augment",
    "Augmentation",
    "Batches",
    "Data",
    "Dataset",
    "Digits",
    "Form",
    "Graph",
    "GraphFile",
    "ImageFolder",
    "Images",
    "Interface",
    "Labelled",
    "Measure",
    "Mix",
    "PointFolder",
    "Points",
    "RandAugment",
    "Samples",
    "Stored",
    "Tally",
    "Text",
    "TextFile",
    "TorchvisionSet",
    "loaded",
    "measure_of",
    "normalise",
    "pieces",
    "published_set",
]
