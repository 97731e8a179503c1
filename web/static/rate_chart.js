/* Packets and bits a second of the watched sessions, once a second since the page was opened, with a line where packets were
   dropped. Drawn by uPlot on a canvas, in the theme's colours; a sentence beside it says the same in words. */
"use strict";
(() => {
  const box = document.getElementById("rate-chart");
  const details = document.getElementById("rates");
  if (!box || !globalThis.uPlot) return;
  const KEPT = 1800;         // points: half an hour at one a second
  const EVERY_MS = 1000;
  const LEAST_S = 60;        // width of the time axis at the beginning
  const words = document.getElementById("rates-words");
  const value = (name) => Number(document.querySelector(`[data-testid=count-${name}]`)?.dataset.value ?? 0);
  const data = [[], [], [], []]; // seconds UTC, packets/s, bit/s, dropped since the point before (null: none)
  let droppedBefore = null;
  let last = 0;
  let plot = null;
  let colours = {};

  const short = (number) => {
    for (const [unit, size] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
      if (Math.abs(number) >= size) return `${Number((number / size).toPrecision(3))} ${unit}`;
    }
    return String(Math.round(number));
  };

  const readColours = () => {
    const style = getComputedStyle(box);
    // Through a property of the element: a token may be light-dark(…), which a canvas doesn't know.
    const token = (name) => {
      box.style.color = `var(${name})`;
      return style.color;
    };
    colours = { text: token("--muted"), line: token("--line"), packets: token("--accent"), bits: token("--good"), dropped: token("--bad") };
    box.style.color = "";
  };

  const drawDrops = (u) => {
    const { ctx } = u;
    ctx.save();
    ctx.strokeStyle = colours.dropped;
    ctx.lineWidth = 2 * devicePixelRatio;
    u.data[3].forEach((dropped, at) => {
      if (!dropped) return;
      const x = u.valToPos(u.data[0][at], "x", true);
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top);
      ctx.lineTo(x, u.bbox.top + u.bbox.height);
      ctx.stroke();
    });
    ctx.restore();
  };

  const axis = (scale, side) => ({
    scale, side, size: 52, space: 26, gap: 3,
    font: "11px sans-serif",
    stroke: () => colours.text,
    grid: { show: side === 3, stroke: () => colours.line, width: 1 },
    ticks: { show: false },
    values: (_, numbers) => numbers.map(short),
  });

  const make = () => {
    readColours();
    plot?.destroy();
    plot = new uPlot({
      width: Math.max(200, box.clientWidth),
      height: box.clientHeight,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      cursor: { show: false },
      legend: { show: false },
      padding: [6, 4, 0, 4],
      scales: {
        x: { range: (_, __, to) => [Math.min(data[0][0] ?? to, (to ?? 0) - LEAST_S), to] },
        packets: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] },
        bits: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] },
      },
      axes: [
        {
          stroke: () => colours.text, grid: { show: false }, ticks: { show: false }, size: 20, gap: 2, space: 80, font: "11px sans-serif",
          values: (_, seconds) => seconds.map((at) => new Date(at * 1000).toISOString().slice(11, 19)), // UTC, as the rows
        },
        axis("packets", 3),
        axis("bits", 1),
      ],
      series: [
        {},
        { scale: "packets", stroke: () => colours.packets, width: 2, points: { show: false } },
        { scale: "bits", stroke: () => colours.bits, width: 1.5, dash: [4, 3], points: { show: false } },
        { show: false },
      ],
      hooks: { draw: [drawDrops] },
    }, data, box);
  };

  const shown = () => details.open && !document.hidden;

  const tell = () => {
    const rates = data[1];
    const drops = data[3].reduce((sum, one) => sum + (one ?? 0), 0);
    const minutes = Math.max(1, Math.round((data[0].at(-1) - data[0][0]) / 60));
    words.textContent = `last ${minutes} min: now ${short(rates.at(-1))} packets/s and ${short(data[2].at(-1))} bit/s, at most ${short(Math.max(...rates))} packets/s; ${drops ? `${short(drops)} dropped` : "nothing dropped"}`;
  };

  document.addEventListener("wirepool:counters", () => {
    const now = Date.now();
    if (now - last < EVERY_MS) return;
    last = now;
    const dropped = value("dropped");
    data[0].push(now / 1000);
    data[1].push(value("pps"));
    data[2].push(value("bandwidth"));
    data[3].push(droppedBefore !== null && dropped > droppedBefore ? dropped - droppedBefore : null);
    droppedBefore = dropped;
    if (data[0].length > KEPT) data.forEach((column) => column.splice(0, column.length - KEPT));
    if (!shown()) return;
    tell();
    if (plot) plot.setData(data); else make();
  });

  const redraw = () => { if (data[0].length && shown()) make(); };
  const remembered = "wirepool:rates";
  try { if (localStorage.getItem(remembered) === "closed") details.open = false; } catch { /* storage is switched off */ }
  details.addEventListener("toggle", () => {
    try { localStorage.setItem(remembered, details.open ? "open" : "closed"); } catch { /* it is then open next time */ }
    redraw();
  });
  document.addEventListener("visibilitychange", redraw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.addEventListener("wirepool:theme", redraw);
  new ResizeObserver(() => { if (plot && box.clientWidth) plot.setSize({ width: box.clientWidth, height: box.clientHeight }); }).observe(box);
})();
