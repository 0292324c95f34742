"""The look of a report: system fonts, light and dark, no outside resource."""

STYLE = """
:root { --ground:#f5f6f8; --surface:#fff; --text:#181c25; --quiet:#626b7a; --line:#e2e6ec; --soft:#f8f9fb;
  --strong:#eef4ff; --accent:#2563eb; --right:#047857; --right-soft:#dcf5ea; --wrong:#b91c1c; --wrong-soft:#fde4e4;
  --below:#9aa3b2; --series-1:#2563eb; --series-2:#e0700b; --series-3:#0d8f72; --series-4:#9333ea;
  --series-5:#c81e5b; --series-6:#64748b; }
@media (prefers-color-scheme: dark) {
  :root { --ground:#0f1216; --surface:#181c22; --text:#e7eaf0; --quiet:#9aa4b2; --line:#2b313a; --soft:#1d2229;
    --strong:#1a2840; --accent:#4f8bff; --right:#4ad3a4; --right-soft:#12362c; --wrong:#ff8b8b; --wrong-soft:#43201f;
    --below:#5b6573; --series-1:#6ea0ff; --series-2:#ff9c4a; --series-3:#3fcfa8; --series-4:#bd8bff;
    --series-5:#ff6b9d; --series-6:#9aa7b8; }
}
* { box-sizing:border-box }
body { margin:0; background:var(--ground); color:var(--text); -webkit-text-size-adjust:100%; font:15px/1.55
  system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,"Noto Sans",sans-serif }
main { max-width:1080px; margin:0 auto; padding:40px 24px 64px }
header { margin:0 0 24px }
h1 { font-size:30px; line-height:1.2; letter-spacing:-.02em; margin:0 0 6px; font-weight:700 }
h2 { font-size:19px; letter-spacing:-.01em; margin:0 0 12px }
h3 { font-size:15px; margin:0 0 8px }
p { margin:0 0 10px; max-width:78ch }
.subtitle,.quiet,.lead { color:var(--quiet) }
.subtitle { font-size:16px; margin:0 }
ul { margin:0 0 10px; padding-left:20px; max-width:82ch }
li { margin:2px 0 }
section { background:var(--surface); border:1px solid var(--line); border-radius:12px; padding:22px 24px; margin:0 0
  18px }
section > :last-child,figure > :last-child,.example > :last-child { margin-bottom:0 }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin:0 0 14px }
.tile { background:var(--soft); border:1px solid var(--line); border-radius:10px; padding:12px 14px }
.tile .label { color:var(--quiet); font-size:13px }
.tile .hint { color:var(--quiet); font-size:12.5px }
.tile .value { font-size:26px; font-weight:650; letter-spacing:-.02em; line-height:1.25;
  font-variant-numeric:tabular-nums }
.scroll { overflow-x:auto; margin:0 0 12px }
.scroll + .scroll { margin-top:20px }
table { border-collapse:collapse; width:100%; font-size:14px }
caption { caption-side:top; text-align:left; font-weight:600; padding:0 0 8px }
th { color:var(--quiet); font-weight:600; text-align:left; font-size:12.5px; vertical-align:bottom; padding:6px 10px;
  border-bottom:2px solid var(--line) }
td:first-child { min-width:14.5em }
td { padding:7px 10px; border-bottom:1px solid var(--line); vertical-align:top }
tbody tr:last-child td { border-bottom:0 }
.number { text-align:right; font-variant-numeric:tabular-nums; white-space:nowrap }
tr.strong td { background:var(--strong); font-weight:600 }
figure { margin:0 0 16px; min-width:0; overflow-x:auto }
figcaption { color:var(--quiet); font-size:13.5px; margin-top:6px; max-width:82ch }
figure .title { font-weight:600; font-size:14px; margin:0 0 6px }
img,svg { max-width:100%; height:auto; display:block }
img { border-radius:6px }
.crisp { image-rendering:pixelated }
.grid { display:grid; grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr)); gap:20px 28px; margin:0 0
  12px }
.grid > figure { margin:0 }
svg text { fill:var(--text); font-size:12px; font-family:inherit; font-variant-numeric:tabular-nums }
svg .quiet { fill:var(--quiet) }
svg .rule { stroke:var(--line); stroke-width:1 }
svg .on { fill:#fff }
svg .surface { fill:var(--soft) }
dl { display:grid; grid-template-columns:max-content minmax(0,1fr); gap:4px 20px; margin:0 0 10px; font-size:14px }
dt { color:var(--quiet) }
dd { margin:0; overflow-wrap:anywhere }
details { margin:10px 0 0 }
summary { cursor:pointer; color:var(--accent); font-weight:550 }
details > :nth-child(2) { margin-top:12px }
.example { border-top:1px solid var(--line); padding:18px 0 }
.key + .example,summary + .example { border-top:0; padding-top:4px }
.example .sides { display:grid; grid-template-columns:minmax(160px,240px) minmax(0,1fr); gap:8px 26px }
@media (max-width:640px) {
  .example .sides { grid-template-columns:1fr }
  main { padding:24px 12px }
  section { padding:16px }
}
.sides .page img { width:100%; max-width:240px }
.qa { margin:0 0 12px }
.qa dt { font-size:13px }
.qa dd { font-size:15px }
.answer { white-space:pre-line }
.tok { border-radius:5px; padding:1px 4px }
.tok.right { background:var(--right-soft); color:var(--right) }
.tok.wrong { background:var(--wrong-soft); color:var(--wrong) }
.tok s { opacity:.75 }
.tok b { font-weight:650 }
.panels { display:flex; flex-wrap:wrap; gap:12px 12px }
.panel { margin:0; text-align:center; max-width:100% }
.panel img { margin:0 auto 4px }
.panel .name { font-weight:600; font-size:14px; line-height:1.3 }
.panel .share { color:var(--quiet); font-size:12px }
.panel .right { color:var(--right) }
.panel .wrong { color:var(--wrong) }
.key { display:flex; flex-wrap:wrap; gap:4px 18px; color:var(--quiet); font-size:13px; margin:0 0 12px;
  align-items:center }
.swatch { display:inline-block; width:44px; height:11px; border-radius:3px; margin-right:7px; vertical-align:-1px }
.error { background:var(--wrong-soft); color:var(--wrong); border-radius:8px; padding:8px 12px; max-width:none }
.pictures { display:flex; flex-wrap:wrap; gap:8px; align-content:flex-start }
.pictures figure { margin:0 }
.pictures figcaption { font-size:12px; margin-top:3px }
.tokens { font:13px/1.95 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace;
  overflow-wrap:anywhere }
.token { border-radius:3px; padding:1px 0; margin-right:1px; white-space:pre-wrap; background:var(--soft);
  box-shadow:inset 0 0 0 1px var(--line) }
.key .token { padding:1px 6px }
.token.control { color:var(--quiet) }
.token.system { background:color-mix(in srgb,var(--series-4) 16%,var(--surface)) }
.token.user { background:color-mix(in srgb,var(--series-1) 14%,var(--surface)) }
.token.assistant { background:color-mix(in srgb,var(--series-3) 18%,var(--surface)) }
.token.visual { background:color-mix(in srgb,var(--series-2) 20%,var(--surface)); padding:1px 6px; margin-right:4px }
.token.on { text-decoration:underline 2px var(--right); text-underline-offset:3px }
@media print {
  body { background:#fff }
  section { break-inside:avoid; border-color:#ccc }
}
"""
