from PIL import Image

from cambrian_gaze.data.inspect.preview import CONTROL, Picture, Preview, Token, VisualRun
from cambrian_gaze.viz.draw import draw_regions
from cambrian_gaze.viz.preview import preview_page


def test_the_page_shows_tokens_pictures_and_errors():
    pieces = [
        Token("<|im_start|>", 1, CONTROL, False, 0),
        VisualRun("image 1", 1, (4, 4), 2, 1),
        Token("<b>\n", 5, "user", False, 19),
        Token("yes", 6, "assistant", True, 20),
        Token("", 7, "assistant", True, 21),
    ]
    good = Preview("s", "rows.jsonl", 3, "id<1>", "", pieces, (4, 4), [Picture("image 1", Image.new("RGB", (64, 64)))])
    good.num_tokens, good.num_supervised, good.num_visual, good.hidden_frames = 22, 2, 18, 5
    bad = Preview("s", "rows.jsonl", 4, "x", "no such file", turns=[("human", "<image>?")])
    text = preview_page("recipe", [good, bad], {"image": (2, 2), "video": (1, 1)}, {"processor": "p"})
    assert 'class="token assistant on"' in text and 'title="token 20, id 6, assistant, supervised"' in text
    assert "&lt;b&gt;\u23ce" in text and "id&lt;1&gt;" in text and "<b>" not in text.split("</style>")[1]
    assert "image 1: 4 x 4 + 2" in text and "tokens 1 to 18: 16 visual, 2 context" in text
    assert "image 1: 2 x 2 regions of 2 x 2 tokens" in text and text.count("data:image/png") == 1
    assert "no such file" in text and "&lt;image&gt;?" in text and "and 5 more frames" in text
    assert "1 of them cannot be used" in text and "81.8%" in text


def test_region_borders_can_be_seen_on_black_and_on_white():
    boxes = [(top, left, top + 2, left + 2) for top in (0, 2) for left in (0, 2)]
    for ground in ((0, 0, 0), (255, 255, 255)):
        drawn = draw_regions(Image.new("RGB", (64, 64), ground), boxes, grid_hw=(4, 4), side=64)
        across = [drawn.getpixel((x, 10)) for x in range(64)]
        assert max(abs(a[0] - ground[0]) for a in across[31:33]) > 180 and across[5] == across[60] == ground
