// Between Gradio's component and the viewer's page in the frame. Gradio runs this with `element`, `props`, `trigger`
// and `watch`.
const frame = element.querySelector("iframe");
let last = null, ready = false, steering = { hidden: [], forced: [] };
const post = (message) => frame.contentWindow.postMessage(message, "*");

function show(message) {
  if (!message?.gaze) {
    if (last) reload();
    return;
  }
  // Pictures come once; who opens the page later gets them with the last message.
  const before = last?.data.units ?? [];
  const units = message.data.units.map((unit, u) => ({ ...unit, src: unit.src || before[u]?.src || "" }));
  if (ready) post(message);
  last = { ...message, data: { ...message.data, units } };
}

function reload() {
  last = null;
  ready = false;
  steering = { hidden: [], forced: [] };
  frame.srcdoc = props.page;
}

window.addEventListener("message", (event) => {
  if (event.source !== frame.contentWindow || !event.data?.gaze) return;
  const { gaze, hidden, forced, again } = event.data;
  if (gaze === "ready") {
    ready = true;
    post({ gaze: "steer", ...steering });
    if (last) post(last);
  } else if (gaze === "steer") {
    steering = { hidden, forced };
    trigger(again ? "apply" : "select", { hidden, forced });
  }
});

frame.srcdoc = props.page;
watch("value", () => show(props.value));
