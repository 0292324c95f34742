"""The demo's page on Gradio: chat beside the viewer, and three ways beside each other."""

from __future__ import annotations

import html
import os
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from cambrian_gaze.demo.compare import table
from cambrian_gaze.demo.conversation import PICTURES, VIDEOS
from cambrian_gaze.demo.session import Session, summary
from cambrian_gaze.demo.talk import Talker
from cambrian_gaze.extras import require
from cambrian_gaze.viz.html import element
from cambrian_gaze.viz.panes import panes_page
from cambrian_gaze.viz.viewer import viewer_page

FRAME = '<iframe sandbox="allow-scripts" title="Gaze viewer"></iframe>'
"""The viewer's place; its page is set by script, since Gradio fills in what looks like a template."""


PANES = """const show = () => {
  element.replaceChildren();
  if (!props.value?.page) return;
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.title = "Dense, gaze and eviction beside each other";
  frame.srcdoc = props.value.page;
  element.append(frame);
};
show();
watch("value", show);
"""
"""Each page in a frame of its own: one that was hidden when it was made is not drawn by every browser."""


class Desk:
    """What the page's controls do. A control's function gives new values of `Page.outputs`, in that order."""

    def __init__(self, talker: Talker, place: Path) -> None:
        self.talker, self.place = talker, place

    def send(self, message: dict[str, Any], top_k: int, session: Session) -> Iterator[tuple[Any, ...]]:
        """A question, pictures or both."""
        try:
            asks = session.take(self.talker, message.get("text") or "", list(message.get("files") or []))
        except (ValueError, OSError) as error:
            yield self._view(session, error)
            return
        if not asks:
            yield self._view(session, "Hide regions or leave some alone, if you like; then ask.")
            return
        yield from self.answer(top_k, session)

    def answer(self, top_k: int, session: Session) -> Iterator[tuple[Any, ...]]:
        """The last question, with this K, once more."""
        session.steer(top_k, sorted(session.steering.hidden), sorted(session.steering.forced))
        last = None
        try:
            yield self._view(session, "Waiting for the model …")
            for last in session.answer(self.talker):
                yield self._view(session, summary(last), follow=not last.done, files=last.done)
        except (ValueError, OSError) as error:
            yield self._view(session, error)

    def dial(self, top_k: int, session: Session) -> Iterator[tuple[Any, ...]]:
        """Another K: answers again where there is an answer."""
        if session.conversation.messages:
            yield from self.answer(top_k, session)
        else:
            session.steer(top_k, [], [])
            yield self._view(session, f"K = {top_k}")

    def compare(self, top_k: int, session: Session) -> Iterator[tuple[str, dict[str, Any] | None, str]]:
        """Table, page of panes, status."""
        session.steer(top_k, sorted(session.steering.hidden), sorted(session.steering.forced))
        try:
            yield "", None, told("Answering three ways …")
            ways = []
            for ways in session.compare(self.talker):
                yield str(table(ways)), None, told(f"{ways[-1].name}: done")
            if len(ways) > 1:
                page = panes_page([(way.name, way.trace) for way in ways])
                yield str(table(ways)), {"page": page}, told("")
        except (ValueError, OSError) as error:
            yield "", None, told(error)

    def forget(self, session: Session) -> tuple[Any, ...]:
        """Everything begins anew."""
        session.forget()
        return *self._view(session, ""), "", None

    def _view(
        self, session: Session, status: str | Exception, follow: bool = False, files: bool = False
    ) -> tuple[Any, ...]:
        import gradio as gr

        paths = session.files(self.place) if files else None
        buttons = [gr.DownloadButton(interactive=False)] * 2
        if paths is not None:
            buttons = [gr.DownloadButton(value=path, interactive=True) for path in paths]
        return chat_texts(session.chat), session.shown(self.talker, follow), told(status), *buttons


def chat_texts(chat: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The chat for Gradio, which would take texts for HTML."""
    return [
        message | ({"content": html.escape(message["content"])} if isinstance(message["content"], str) else {})
        for message in chat
    ]


def told(status: str | Exception) -> str:
    """A line of status; an error reads as one."""
    text = " ".join(str(status).split())
    return str(element("span", text, class_="error" if isinstance(status, Exception) else None))


def build_page(talker: Talker, place: Path) -> Any:
    """The Gradio `Blocks`, without a server. `place`: a folder for downloads."""
    gr = require("gradio", "demo")
    desk, limits = Desk(talker, place), talker.limits
    script = (files("cambrian_gaze") / "assets" / "demo" / "host.js").read_text(encoding="utf-8")
    blank = viewer_page(talker.bare(Session().conversation, []))
    with gr.Blocks(title=f"{talker.name} · Cambrian-Gaze", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        session = gr.State(Session(), time_to_live=3600, delete_callback=Session.forget)
        heading = element("h1", talker.name), element("p", "Add a picture or a video, ask, and see where it looks.")
        gr.HTML(str(element("div", heading)), elem_classes="gaze-title")
        # In the order of a narrow screen; a wide one has the viewer on the left (demo.css).
        with gr.Row(elem_classes="gaze-desk"):
            with gr.Column(min_width=280, elem_classes="gaze-ask"):
                chat = gr.Chatbot(
                    [],
                    label="Chat",
                    height=420,
                    elem_id="chat",
                    render_markdown=False,
                    feedback_options=None,
                    buttons=[],
                )
                box = gr.MultimodalTextbox(
                    placeholder="A question, picture or video",
                    file_types=sorted(PICTURES | VIDEOS),
                    file_count="multiple",
                    show_label=False,
                    max_plain_text_length=limits.max_text,
                    elem_id="box",
                )
                status = gr.HTML("", elem_id="status", elem_classes="gaze-status")
            with gr.Column(min_width=280, elem_classes="gaze-look"):
                viewer = gr.HTML(
                    None,
                    html_template=FRAME,
                    js_on_load=script,
                    page=blank,
                    elem_id="viewer",
                    elem_classes="gaze-frame",
                )
            with gr.Column(min_width=280, elem_classes="gaze-dial"):
                top_k = gr.Slider(
                    1, talker.regions_per_image, talker.top_k, step=1, elem_id="top_k",
                    label=f"K: regions per query, head and layer ({talker.regions_per_image} is all of an image)",
                    info="Let go, and the last question is answered again.",
                )  # fmt: skip
                with gr.Row():
                    again = gr.Button("Answer again", elem_id="again_button", size="sm", min_width=90)
                    stop = gr.Button("Stop", elem_id="stop", size="sm", min_width=90)
                    new = gr.Button("New chat", elem_id="new", size="sm", min_width=90)
                with gr.Row():
                    trace = gr.DownloadButton("Trace", elem_id="trace", interactive=False, size="sm", min_width=90)
                    saved = gr.DownloadButton("Page", elem_id="page_file", interactive=False, size="sm", min_width=90)
                ways = gr.Button("Dense, gaze, eviction", elem_id="compare", size="sm")
        beside = gr.HTML("", elem_id="ways")
        panes = gr.HTML(
            None, html_template="<div></div>", js_on_load=PANES, elem_id="panes_frame", elem_classes="gaze-panes",
        )  # fmt: skip

        outputs = [chat, viewer, status, trace, saved]
        model = {
            "concurrency_limit": 1,
            "concurrency_id": "model",
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        plain = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        box.submit(desk.send, [box, top_k, session], outputs, **model)
        box.submit(lambda: {"text": "", "files": []}, None, box, **plain)
        again.click(desk.answer, [top_k, session], outputs, **model)
        top_k.release(desk.dial, [top_k, session], outputs, **model)
        ways.click(desk.compare, [top_k, session], [beside, panes, status], **model)
        for begins in (new.click, chat.clear):
            begins(desk.forget, [session], [*outputs, beside, panes], **plain)
        stop.click(Session.halt, [session], None, **plain)

        def steered(session: Session, event: Any) -> None:
            named = event._data
            session.steer(session.steering.top_k, named["hidden"], named["forced"])

        def steered_again(top_k: int, session: Session, event: Any) -> Iterator[tuple[Any, ...]]:
            steered(session, event)
            yield from desk.answer(top_k, session)

        for function in (steered, steered_again):
            function.__annotations__["event"] = gr.EventData  # by which Gradio knows where to put the event
        # Before anything that answers: a choice of regions must not wait for the model.
        viewer.select(steered, [session], None, **plain)
        viewer.apply(steered_again, [top_k, session], outputs, **model)
    return page


def serve(talker: Talker, host: str = "127.0.0.1", port: int = 7860, block: bool = True) -> tuple[Any, str, Any]:
    """Serve the page until interrupted, or with `block=False` in the background; (Blocks, its address, the folder of
    its files, to be cleaned up by whoever asked for the background).

    Raises: ImportError without the extra `demo`; OSError where the port is taken.
    """
    folder = tempfile.TemporaryDirectory(prefix="cambrian-gaze-demo-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # uploads go with the demo when it ends
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    gr = require("gradio", "demo")
    page, limits = build_page(talker, Path(folder.name)), talker.limits
    page.queue(max_size=limits.max_waiting, api_open=False)
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
    theme = gr.themes.Base(font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=limits.max_file,
            max_threads=8,
            state_session_capacity=limits.max_sessions,
            allowed_paths=[],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            theme=theme,
            css=(files("cambrian_gaze") / "assets" / "demo" / "demo.css").read_text(encoding="utf-8"),
        )
    except BaseException:
        folder.cleanup()
        raise
    if block:
        print(f"{talker.name!r} at {address} (Ctrl-C ends it)", flush=True)
        try:
            page.block_thread()
        finally:
            page.close()
            folder.cleanup()
    return page, address, folder
