/** An ECharts instance in an element, and the page's colours for it. */
import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";

const DARK = matchMedia("(prefers-color-scheme: dark)");

/** The page's colours, from its style sheet. @returns {import("../plot_option.js").Palette} */
export function palette() {
  const style = getComputedStyle(document.documentElement);
  /** @param {string} name */
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    ink: of("ink"),
    muted: of("muted"),
    line: of("line"),
    panel: of("panel"),
    accent: of("accent"),
    accentSoft: of("accent-soft"),
    gold: of("gold"),
    bad: of("bad"),
    badSoft: of("bad-soft"),
    host: of("host"),
  };
}

/** Whether the page is dark now, as a signal. */
export function useDark() {
  const dark = useSignal(DARK.matches);
  useEffect(() => {
    const follow = () => (dark.value = DARK.matches);
    DARK.addEventListener("change", follow);
    return () => DARK.removeEventListener("change", follow);
  }, []);
  return dark;
}

/**
 * An ECharts instance that fits its element for as long as the element lives.
 * @param {(chart: any) => void} ready
 */
export function useChart(ready) {
  const element = useRef(/** @type {HTMLDivElement|null} */ (null));
  useEffect(() => {
    const node = /** @type {HTMLDivElement} */ (element.current);
    const chart = /** @type {any} */ (window).echarts.init(node, null, { renderer: "canvas" });
    const observer = new ResizeObserver(() => chart.resize());
    observer.observe(node);
    ready(chart);
    return () => {
      observer.disconnect();
      chart.dispose();
    };
  }, []);
  return element;
}
