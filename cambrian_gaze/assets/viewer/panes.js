"use strict";
// Several viewers beside each other. Each is a page of its own in a frame; what is chosen in one is told to the others.

const panes = JSON.parse(document.getElementById("pages").textContent).map(({ name, page }) => {
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.title = name;
  frame.name = "pane";
  frame.srcdoc = page;
  const heading = document.createElement("h2");
  heading.textContent = name;
  const pane = document.createElement("section");
  pane.append(heading, frame);
  document.getElementById("beside").append(pane);
  return { frame, ready: false };
});

window.addEventListener("message", (event) => {
  const pane = panes.find(({ frame }) => frame.contentWindow === event.source);
  if (!pane) return;
  if (event.data?.gaze === "ready") {
    pane.ready = true;
    if (panes.every(({ ready }) => ready)) document.getElementById("panes").setAttribute("aria-busy", "false");
  } else if (event.data?.gaze === "state" && document.getElementById("linked").checked) {
    for (const other of panes) {
      if (other !== pane) other.frame.contentWindow.postMessage({ gaze: "set", state: event.data.state }, "*");
    }
  }
});
