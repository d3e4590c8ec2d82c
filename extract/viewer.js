// The clip viewer: one time line moves the frame, what is drawn over it, the face and the lanes of one clip together.
"use strict";

(() => {
  const LONGEST_PLAY_S = 12; // a longer clip is played faster

  for (const viewer of document.querySelectorAll("article.viewer")) start(viewer);

  function start(viewer) {
    const data = mgcliPage.data(`${viewer.id}-data`);
    const range = viewer.querySelector("input[type=range]");
    if (data === null || range === null) return;
    const find = (selector) => viewer.querySelector(selector);
    const picture = find(".picture"), frame = find(".picture img"), canvas = find("canvas");
    const face = find(".face img"), noFace = find(".face .none"), play = find(".play"), output = find("output");
    const cursor = find(".cursor");
    const lanes = [...viewer.querySelectorAll(".lane")].map((lane) => ({
      bars: lane.querySelectorAll("rect"),
      name: lane.querySelector("figcaption span").textContent,
      now: lane.querySelector(".now"),
      times: lane.dataset.times.split(" ").map(Number),
      texts: lane.dataset.texts.split("|"),
    }));
    const [first, last] = data.span;
    const moments = [...new Set([first, ...data.times, ...lanes.flatMap((lane) => lane.times)])]
      .filter((time) => time >= first && time <= last)
      .sort((a, b) => a - b);
    let time = first;
    let playing = null; // the id of the next step

    function show(wanted) {
      time = Math.min(last, Math.max(first, wanted));
      const place = nearest(data.times, time);
      if (frame && data.frames.length) {
        if (frame.dataset.frame !== String(place)) frame.src = data.frames[place];
        frame.dataset.frame = place;
      }
      if (face) {
        const seen = data.faces[place];
        face.hidden = seen === null;
        noFace.hidden = seen !== null;
        if (seen !== null) face.src = seen;
      }
      const said = data.frames.length ? [`frame ${place + 1} of ${data.frames.length}`] : [];
      if (face) said.push(data.faces[place] === null ? "no face" : "face seen");
      for (const lane of lanes) {
        const now = nearest(lane.times, time);
        lane.bars.forEach((bar, i) => bar.classList.toggle("now", i === now));
        lane.now.textContent = lane.texts[now];
        if (lane.name.startsWith("Attention")) said.push(`${lane.name}: ${lane.texts[now]}`);
      }
      const share = (100 * (time - first)) / Math.max(last - first, 1e-9);
      if (cursor) cursor.style.left = `${share}%`;
      range.value = time;
      output.textContent = `${time.toFixed(2)} s`;
      range.setAttribute("aria-valuetext", [`${time.toFixed(2)} seconds`, ...said].join(", "));
      draw(place);
    }

    function draw(place) {
      if (!canvas) return;
      const [width, height] = data.size;
      const sharp = Math.max(2, Math.ceil(window.devicePixelRatio));
      if (canvas.width !== width * sharp) [canvas.width, canvas.height] = [width * sharp, height * sharp];
      const pen = canvas.getContext("2d");
      pen.setTransform(sharp, 0, 0, sharp, 0, 0);
      pen.clearRect(0, 0, width, height);
      const drawn = [];
      const isOn = (layer) => find(`[data-layer="${CSS.escape(layer)}"]`)?.checked;
      if (data.grid && isOn(data.grid.layer)) drawn.push(drawGrid(pen, data.grid, time));
      let sizes = null;
      if (data.joints && isOn(data.joints.layer)) {
        const now = nearest(data.joints.times, time);
        sizes = new Map(data.joints.places.map((joint, i) => [joint, data.joints.values[now][i]]));
      }
      if (data.skeleton && (isOn("skeleton") || sizes)) {
        const joints = data.skeleton.joints[place];
        drawSkeleton(pen, joints, isOn("skeleton") ? data.skeleton.edges : [], isOn("skeleton"), sizes);
        drawn.push(`skeleton ${place}`);
      }
      canvas.dataset.drawn = drawn.join("; ");
    }

    function step(to) {
      stop();
      show(to);
    }

    function stop() {
      if (playing !== null) cancelAnimationFrame(playing);
      playing = null;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    }

    play.addEventListener("click", () => {
      if (playing !== null) return stop();
      if (time >= last) show(first);
      const speed = Math.max(1, (last - first) / LONGEST_PLAY_S);
      const from = time, began = performance.now();
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      const go = (now) => {
        show(from + (speed * (now - began)) / 1000);
        if (time >= last) stop();
        else playing = requestAnimationFrame(go);
      };
      playing = requestAnimationFrame(go);
    });
    range.addEventListener("input", () => step(Number(range.value)));
    range.addEventListener("keydown", (event) => {
      const ahead = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 5, PageDown: -5 }[event.key];
      if (ahead === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      step(moments[Math.min(moments.length - 1, Math.max(0, nearest(moments, time) + ahead))]);
    });
    find(".lanes").addEventListener("pointerdown", (event) => {
      const svg = event.target.closest("svg");
      if (svg === null) return;
      const box = svg.getBoundingClientRect();
      step(first + ((last - first) * (event.clientX - box.left)) / box.width);
    });
    for (const layer of viewer.querySelectorAll("[data-layer]")) layer.addEventListener("change", () => show(time));
    document.addEventListener("mgcli-theme", () => show(time));
    show(data.times.length ? data.times[0] : first);
  }

  function nearest(times, time) {
    let best = 0;
    for (let i = 1; i < times.length; i++) if (Math.abs(times[i] - time) <= Math.abs(times[best] - time)) best = i;
    return best;
  }

  function drawGrid(pen, grid, time) {
    const now = nearest(grid.times, time);
    const [left, top, right, bottom] = grid.box;
    const [wide, tall] = [(right - left) / grid.side, (bottom - top) / grid.side];
    pen.fillStyle = "rgb(255, 120, 0)";
    grid.values[now].forEach((value, i) => {
      pen.globalAlpha = 0.75 * value;
      pen.fillRect(left + (i % grid.side) * wide, top + Math.floor(i / grid.side) * tall, wide, tall);
    });
    pen.globalAlpha = 1;
    pen.strokeStyle = "rgb(255, 255, 255)";
    pen.lineWidth = 0.5;
    pen.strokeRect(left, top, right - left, bottom - top); // what the backbone saw
    return `grid ${now}`;
  }

  // Colours over a frame do not follow the theme: the frame does not either. Dark edges keep them clear of any picture.
  function drawSkeleton(pen, joints, edges, shown, sizes) {
    pen.lineCap = "round";
    for (const [colour, width] of [["rgb(0, 0, 0)", 3.5], ["rgb(110, 230, 255)", 1.8]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      for (const [a, b] of edges) {
        if (joints[a] === null || joints[b] === null) continue;
        pen.beginPath();
        pen.moveTo(...joints[a]);
        pen.lineTo(...joints[b]);
        pen.stroke();
      }
    }
    joints.forEach((joint, i) => {
      const size = sizes?.get(i) ?? 0;
      if (joint === null || !(shown || size)) return;
      pen.beginPath();
      pen.arc(joint[0], joint[1], 1.8 + 7 * size, 0, 2 * Math.PI);
      pen.fillStyle = size ? "rgba(255, 120, 0, 0.8)" : "rgb(110, 230, 255)";
      pen.fill();
      pen.strokeStyle = "rgb(0, 0, 0)";
      pen.lineWidth = 0.8;
      pen.stroke();
    });
  }
})();
