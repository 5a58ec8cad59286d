"""Initializers, one module each; a new module here is a new initializer."""

from __future__ import annotations

from gmm_lightning._plugins import Registry
from gmm_lightning.initializers._distances import DistanceTable
from gmm_lightning.initializers._rows import is_near, standardize
from gmm_lightning.initializers.base import Initializer
from gmm_lightning.initializers.given import Given
from gmm_lightning.initializers.kmeans import KMeans, lloyd
from gmm_lightning.initializers.kmeans_plus_plus import KMeansPlusPlus, kmeans_plus_plus_seeds
from gmm_lightning.initializers.maxdist import MaxDist, maxdist_seeds
from gmm_lightning.initializers.mixed import Mixed
from gmm_lightning.initializers.random import Random
from gmm_lightning.initializers.random_from_data import RandomFromData

registry: Registry[Initializer] = Registry(__name__, Initializer, "initializer")

__all__ = [
    "DistanceTable",
    "Given",
    "Initializer",
    "KMeans",
    "KMeansPlusPlus",
    "MaxDist",
    "Mixed",
    "Random",
    "RandomFromData",
    "is_near",
    "kmeans_plus_plus_seeds",
    "lloyd",
    "maxdist_seeds",
    "registry",
    "standardize",
]
