"""Made-up records and answers whose figures can be counted by hand."""

from cambrian_gaze.data.records.records import Record


class Words:
    """A tokenizer of whole words, two tokens for those with a dash."""

    def decode(self, tokens, skip_special_tokens=True):
        return " ".join(tokens).replace(" -", "").replace(" <end>", "")


def record(*words, grid=(2, 5), frames=1, values=None, name="a"):
    """words: (text, regions); values: those that are read from somewhere."""
    meta = {
        "answer_regions": [{"text": text, "regions": list(regions)} for text, regions in words],
        "regions": list(grid), "num_images": frames, "given": "",
        "values": [{"name": "", "value": text} for text, regions in words if regions] if values is None else values,
    }  # fmt: skip
    return Record(id=name, conversations=[], extra={"meta": meta, "family": "hop"})


def answer(tokens, regions, of=40):
    """regions: [tokens][layers][heads][K]."""
    return {"answer": Words().decode(tokens), "tokens": tokens, "regions": regions, "attended": {"of": of}}
