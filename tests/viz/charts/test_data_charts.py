from collections import Counter

from cambrian_gaze.data.inspect.survey import Facts
from cambrian_gaze.viz.charts.data_charts import length_panels, picture_panels


def test_every_sample_and_picture_is_in_a_bar():
    facts = Facts(
        lengths=Counter({7: 2, 130: 3, 2047: 1}),
        visual=Counter({0: 2, 68: 4}),
        units=Counter({0: 2, 1: 4}),
        sizes=Counter({(640, 480): 5, (480, 640): 2, (10, 900): 1, (900, 10): 1}),
    )
    panels = length_panels(facts, 2048)
    assert [panel.title.split()[0] for panel in panels] == ["Tokens", "Visual", "Images"]
    assert [sum(panel.counts) for panel in panels] == [6, 6, 6] and panels[0].marks == {"max_length 2,048": 2048}
    assert panels[0].edges[0] == 0 and panels[0].edges[-1] > 2047
    pictures = picture_panels(facts)
    assert [sum(panel.counts) for panel in pictures] == [9, 9, 9, 9]
    shape = pictures[2]
    assert shape.counts[0] == shape.counts[-1] == 1 and shape.names[shape.counts.index(5) - 2] == "1:1"


def test_nothing_to_plot():
    assert length_panels(Facts(), 2048) == [] == picture_panels(Facts())
