"""Tables over seeds: means are weighted by what was counted, heads stand in order of their recall."""

from cambrian_gaze.studies.routing.tables import routing_parts

NAMES = ("inside", "best", "half", "most", "half_seen", "most_seen")


def seed(words, table, changed, layer):
    chance = {"head": 0.125, "layer": [0.25, 0.25], "model": 0.5}
    mass = {"steps": words, **{name: [number / 10, number / 5] for number, name in enumerate(NAMES)}}
    return {
        "recall": {
            "words": words, "mean_head": 0.5, "best_head": 1.0, "any_head": 0.75, "any_in_layer": [0.7, 0.8],
            "table": table, "chance": chance,
        },
        "shifts": {
            "pairs": words, "changed": changed, "distance": changed, "random": {"changed": 0.99, "distance": 0.9},
        },
        "unions": {
            "steps": words, "regions": 16, "entries": 4, "head": 2, "kv_head": [3, 4], "layer": layer, "model": 9,
            "random": {"kv_head": 3.75, "layer": 6.6, "model": 12.8},
        },
        "mass": {"all": mass, "read": mass if words > 1 else {"steps": 0}},
    }  # fmt: skip


def results(**more):
    arms = [{"name": "gaze", "title": "gaze |C|", "steer": None}, {"name": "dense", "title": "dense", "steer": None}]
    seeds = [
        seed(3, [[0.2, 0.8], [0.0, 0.4]], [[0.0, 1.0], [0.5, 0.5]], [5, 6]),
        seed(1, [[0.4, 0.0], [0.8, 1.0]], [[0.4, 0.4], [0.1, 0.9]], [6, 6]),
    ]
    found = {str(n): {"arms": {"gaze": {"right": {}, **one}, "dense": {"right": {}}}} for n, one in enumerate(seeds)}
    return {"arms": arms, "routing": ["dense", "gaze"], "seeds": found, **more}


def rows(text):
    """Lines of a part's table as lists of cells, the first two apart."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.replace(r"\|", "¦").split("|")[1:-1]] for line in lines[2:]]


def test_by_hand():
    recall, mass, shifts, unions = routing_parts(results())
    assert rows(recall) == [
        ["gaze ¦C¦", "0", "0.700", "0.150", "0.700", "0.250"],
        ["gaze ¦C¦", "1", "0.550", "0.200", "0.800", "0.250"],
        ["gaze ¦C¦", "all", "mean 0.500, chance 0.125", "", "0.750", "0.500"],
    ]
    assert rows(mass)[1] == ["gaze ¦C¦", "1", "0.000 (0.200)", "0.000 (0.200)", "0.4", "0.6", "0.8", "1.0"]
    assert rows(shifts) == [
        ["gaze ¦C¦", "0", "0.475", "0.100", "0.850", "0.475"],
        ["gaze ¦C¦", "1", "0.500", "0.400", "0.600", "0.500"],
        ["gaze ¦C¦", "all", "0.487", "0.025", "0.975", "0.487"],
        ["gaze ¦C¦", "random", "0.990", "", "", "0.900"],
    ]
    assert rows(unions) == [
        ["gaze ¦C¦", "0", "2", "3.00 (3.75)", "12.0 of 64", "5.25 (6.60)", ""],
        ["gaze ¦C¦", "1", "2", "4.00 (3.75)", "16.0 of 64", "6.00 (6.60)", ""],
        ["gaze ¦C¦", "all", "2", "3.50 (3.75)", "14.0 of 64", "5.62 (6.60)", "9.00 (12.80)"],
    ]


def test_other_studies_have_no_such_parts():
    assert routing_parts(results(routing=[])) == []
    older = results()
    del older["routing"]
    assert routing_parts(older) == []
