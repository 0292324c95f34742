"""What attention costs: counted during generation, predicted by the cost model, timed."""

from cambrian_gaze.moved import content_of

__getattr__ = content_of(__name__, "cambrian_gaze.evaluation.cost.cost")
