"""The dataset of a run: item i is the sample of row i of a mixture."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset

from cambrian_gaze.data.dataset import ConversationDataset, Sample
from cambrian_gaze.data.mixture.mixture import Mixture
from cambrian_gaze.data.quarantine import Quarantined
from cambrian_gaze.data.records.records import Record


class MixtureDataset(Dataset):
    """Map-style over the rows of an epoch; samples and `Quarantined` carry `source`, the name of their source."""

    def __init__(self, mixture: Mixture, processor: Any, **options: Any) -> None:
        """`options`: those of `ConversationDataset`, for every source."""
        self.mixture = mixture
        self.parts = [
            ConversationDataset(
                *(records, processor, source.image_folder, source.video_folder),
                source=source.name,
                expects_missing=bool(source.expected.get("missing")),
                **options,
            )
            for source, records in zip(mixture.sources, mixture.records, strict=True)
        ]
        """Per source the dataset of all its rows."""

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Sample | Quarantined:
        source, row = self.mixture.locate(index)
        return self.parts[source][row]

    def record(self, index: int) -> Record:
        """What item `index` is made of. Raises RecordError."""
        source, row = self.mixture.locate(index)
        return self.parts[source].record(row)

    def fault(self, index: int) -> Quarantined:
        """Why item `index` is no sample, as far as that shows without its pictures."""
        source, row = self.mixture.locate(index)
        return self.parts[source].fault(row)
