// Hooks, in the place of `preact/hooks`.

import { afterChange, afterPaint, drawing, update, type createContext, type Hook, type Instance } from "./tree.js";

type Deps = readonly unknown[] | undefined;

/** The state of the hook that is called, made if it is called for the first time. */
function next(): [Hook, Instance] {
  const { instance } = drawing;
  return [(instance.hooks[drawing.hooks++] ??= {}), instance];
}

const differ = (a: Deps, b: Deps) => !a || !b || a.some((value, index) => !Object.is(value, b[index]));

export function useState(first: unknown): unknown {
  const [hook, instance] = next();
  hook.value ??= [
    typeof first === "function" ? first() : first,
    (given: unknown) => {
      const [value, set] = hook.value as unknown[];
      const changed = typeof given === "function" ? given(value) : given;
      if (Object.is(changed, value)) return;
      hook.value = [changed, set];
      update(instance);
    },
  ];
  return hook.value;
}

export function useMemo(make: () => unknown, deps: Deps): unknown {
  const [hook] = next();
  if (differ(hook.deps, deps)) Object.assign(hook, { value: make(), deps });
  return hook.value;
}

export const useRef = (current: unknown) => useMemo(() => ({ current }), []);

const effect = (schedule: (work: () => void) => void) => (run: () => (() => void) | void, deps: Deps) => {
  const [hook, instance] = next();
  if (!differ(hook.deps, deps)) return;
  hook.deps = deps;
  schedule(() => {
    if (instance.isGone) return;
    hook.cleanup?.();
    hook.cleanup = run();
  });
};
/** Runs before the browser paints the change. */
export const useLayoutEffect = effect(afterChange);
/** Runs after that. */
export const useEffect = effect(afterPaint);

export function useContext(context: ReturnType<typeof createContext>): unknown {
  for (let at: Instance | undefined = drawing.instance; at; at = at.parent) {
    const { shown } = at;
    if (typeof shown === "object" && shown?.type === context.Provider) return shown.props["value"];
  }
  return context.value;
}
