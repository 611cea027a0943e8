// What only a browser can do: put the address on the clipboard, and save what is on the screen.
window.dash_clientside = Object.assign({}, window.dash_clientside, {
  graphprune: {
    copy: async function (clicks) {
      if (!clicks) { return window.dash_clientside.no_update; }
      try {
        await navigator.clipboard.writeText(window.location.href);
        return "Link copied";
      } catch (error) {
        window.prompt("Copy this link:", window.location.href);
        return "Copy link";
      }
    },
    drawn: function (selected) {  // where, and not which of the thousands of points lie there
      if (!selected) { return null; }
      return { range: selected.range, lassoPoints: selected.lassoPoints };
    },
    table: function (clicks, asked, ids, requests) {
      const request = requests[ids.findIndex((id) => id.name === asked.name)] || {};
      const wanted = JSON.stringify({ sortModel: request.sortModel, filterModel: request.filterModel });
      const query = window.location.search || "?";
      if (clicks) {
        window.location.assign(`/table/${asked.name}.csv${query}&request=${encodeURIComponent(wanted)}`);
      }
      return window.dash_clientside.no_update;
    },
    download: function (clicks, ids) {
      const same = window.dash_clientside.no_update;
      const asked = window.dash_clientside.callback_context.triggered_id;
      if (!asked || !clicks.some(Boolean)) { return ids.map(() => same); }
      if (asked.part === "png" || asked.part === "svg") {
        const graph = document.querySelector(`[id='{"name":"${asked.download}","part":"figure"}'] .js-plotly-plot`);
        const size = graph.getBoundingClientRect();
        window.Plotly.downloadImage(graph, {
          format: asked.part, filename: asked.download, width: size.width, height: size.height,
          scale: asked.part === "png" ? 2 : 1,
        });
      } else {
        window.location.assign(`/download/${asked.download}.${asked.part}${window.location.search}`);
      }
      return ids.map(() => same);
    },
  },
});

window.dashMantineFunctions = Object.assign({}, window.dashMantineFunctions, {
  percent: (value) => `${Math.round(value * 1000) / 10} %`,
});
