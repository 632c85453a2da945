"""Fields that several kinds of studies share: types with their descriptions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from optrepro.settings import Count, Name

Label = Annotated[str, Field(description="Name in figures and tables.")]
Gpu = Annotated[bool, Field(description="Whether the jobs request a GPU from the cluster.")]
Network = Annotated[Name, Field(description="Name of the network: `softmax`, `perceptron`, `cnn` or `resnet18`.")]
NetworkSettings = Annotated[
    dict[str, Any], Field(description="Settings of the network: `hidden` of the perceptron, `width` of the CNN.")
]
Window = Annotated[Count, Field(description="Number of consecutive steps in one estimate, a multiple of `blocks`.")]
Lags = Annotated[Count, Field(description="Largest lag of the autocorrelation.")]
Blocks = Annotated[
    int, Field(ge=2, description="Number of blocks of a window, whose spread gives the standard errors.")
]
