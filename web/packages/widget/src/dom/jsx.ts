// What JSX becomes, in the place of `preact/jsx-runtime`.

import { Fragment, VNode } from "./tree.js";

export { Fragment };
export const jsx = (type: VNode["type"], props: VNode["props"], key?: unknown): VNode => new VNode(type, props, key);
export { jsx as jsxs };
