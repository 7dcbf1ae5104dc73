"use strict";
(() => {
  const NS = document.querySelector("svg")?.namespaceURI;
  const make = (name, attributes, text) => {
    const made = document.createElementNS(NS, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const button = (text, act) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.onclick = act;
    return made;
  };
  const hidden = new Set();
  const charts = [];

  for (const figure of document.querySelectorAll("figure.chart")) {
    const svg = figure.querySelector("svg");
    const [left, right, top, bottom, inset] = svg.dataset.grid.split(" ").map(Number);
    const lines = [...svg.querySelectorAll(".series")].map(group => ({
      name: group.dataset.name,
      points: group.dataset.values.split(" ").map(pair => pair.split(",").map(Number)),
    }));
    const all = lines.flatMap(line => line.points.map(point => point[0]));
    let [least, most] = [Math.min(...all), Math.max(...all)];
    if (least === most) [least, most] = [least - 1, most + 1];
    const x = value => left + inset + (value - least) / (most - least) * (right - left - 2 * inset);
    const readout = document.createElement("p");
    readout.className = "readout quiet";
    figure.append(readout);
    const clear = () => {
      readout.textContent = "";
      svg.querySelector(".guide")?.remove();
    };
    // The pointer or an arrow key moved to `at`.
    const tell = at => {
      const shown = lines.filter(line => !hidden.has(line.name));
      const near = shown.map(line => line.points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a));
      if (!near.length) return clear();
      const place = near.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a)[0];
      const values = shown.map((line, index) => near[index][0] === place ? `${line.name} ${+near[index][1].toPrecision(5)}` : "");
      readout.textContent = `${svg.dataset.x} ${place}: ${values.filter(Boolean).join(", ")}`;
      svg.querySelector(".guide")?.remove();
      svg.append(make("path", { class: "guide", d: `M${x(place)} ${top}V${bottom}` }));
      return place;
    };
    svg.onpointermove = event => {
      const box = svg.getBoundingClientRect(), width = svg.viewBox.baseVal.width;
      tell(least + ((event.clientX - box.left) / box.width * width - left - inset) / (right - left - 2 * inset) * (most - least));
    };
    svg.onpointerleave = svg.onblur = clear;
    svg.tabIndex = 0;
    let place = most;
    svg.onkeydown = event => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      const sorted = [...new Set(all)].sort((a, b) => a - b), now = sorted.indexOf(place);
      place = sorted[Math.min(sorted.length - 1, Math.max(0, now + by))];
      tell(place);
    };

    // Accuracies need a close view.
    const first = [...svg.childNodes].map(node => node.cloneNode(true));
    const hide = () => {
      for (const group of svg.querySelectorAll(".series")) group.style.display = hidden.has(group.dataset.name) ? "none" : "";
    };
    const scale = (low, high) => {
      clear();
      svg.replaceChildren(...first.map(node => node.cloneNode(true)));
      if (low !== undefined) {
        const y = value => bottom - (value - low) / (high - low) * (bottom - top);
        for (const old of svg.querySelectorAll(".grid, .tick")) {
          // Removes horizontal lines; vertical ones stay.
          if (old.getAttribute("d")?.includes("H") || old.getAttribute("text-anchor") === "end") old.remove();
        }
        const step = (high - low) / 4;
        for (let tick = low; tick <= high; tick += step) {
          svg.prepend(make("path", { class: "grid", d: `M${left} ${y(tick)}H${right}` }));
          svg.append(make("text", { class: "tick", x: left - 8, y: y(tick) + 4, "text-anchor": "end" }, tick.toFixed(step < 1 ? 1 : 0)));
        }
        const id = `near-${charts.findIndex(chart => chart.svg === svg)}`, clip = make("clipPath", { id });
        clip.append(make("rect", { x: left, y: top, width: right - left, height: bottom - top }));
        svg.append(clip);
        for (const group of svg.querySelectorAll(".series")) {
          const { points } = lines.find(line => line.name === group.dataset.name);
          const pixels = points.map(([a, b]) => [x(a), y(b)]);
          const classes = group.querySelector("polyline").getAttribute("class"), dots = group.querySelectorAll("circle").length > 1;
          const dot = group.querySelector("circle")?.getAttribute("class");
          group.setAttribute("clip-path", `url(#${id})`);
          group.replaceChildren(make("polyline", { class: classes, points: pixels.map(pixel => pixel.map(at => at.toFixed(1)).join()).join(" ") }));
          if (dots) group.append(...pixels.map(([cx, cy]) => make("circle", { class: dot, cx, cy, r: 3 })));
        }
      }
      hide();
    };
    charts.push({ svg, hide });
    if (/accuracy/i.test(svg.getAttribute("aria-label"))) {
      const scales = document.createElement("div");
      scales.className = "scales";
      scales.append(button("all", () => scale()), button("90–100 %", () => scale(90, 100)), button("97–99 %", () => scale(97, 99)));
      figure.querySelector("figcaption").after(scales);
    }
  }

  for (const entry of document.querySelectorAll(".entry")) {
    const { name } = entry.dataset;
    entry.tabIndex = 0;
    entry.setAttribute("role", "switch");
    entry.setAttribute("aria-checked", "true");
    entry.title = "Hide or show";
    const turn = () => {
      if (!hidden.delete(name)) hidden.add(name);
      for (const other of document.querySelectorAll(".entry")) {
        if (other.dataset.name === name) other.setAttribute("aria-checked", String(!hidden.has(name)));
      }
      for (const chart of charts) chart.hide();
    };
    entry.onclick = turn;
    entry.onkeydown = event => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      turn();
    };
  }

  const mistakes = JSON.parse(document.getElementById("mistakes")?.textContent ?? "[]");
  const place = document.getElementById("cell");
  for (const cell of document.querySelectorAll("[data-cell].wrong")) {
    const [label, taken] = cell.dataset.cell.split(" ").map(Number);
    const found = mistakes.filter(each => each.label === label && each.class === taken);
    if (!found.length) continue;
    cell.tabIndex = 0;
    cell.setAttribute("role", "button");
    const open = () => {
      const heading = document.createElement("p");
      heading.textContent = `${cell.title}${found.length < Number(cell.textContent) ? `, ${found.length} of them` : ""}`;
      const pictures = document.createElement("div");
      pictures.className = "pictures";
      for (const { index, probability, png } of found) {
        const figure = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
        image.src = `data:image/png;base64,${png}`;
        image.alt = cell.title;
        caption.textContent = `${(100 * probability).toFixed(1)} %, no. ${index}`;
        figure.append(image, caption);
        pictures.append(figure);
      }
      place.replaceChildren(heading, pictures);
    };
    cell.onclick = open;
    cell.onkeydown = event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(); } };
  }
})();
