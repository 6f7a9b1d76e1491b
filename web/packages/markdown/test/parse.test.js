// What each construct becomes.

import assert from "node:assert/strict";
import test from "node:test";

import { parse } from "../dist/index.js";
import { html, policy } from "./html.js";

const TABLES = {
  "paragraphs and line breaks": [
    ["a\nb\n\nc", "<p>a\nb</p><p>c</p>"],
    ["a  \nb\\\nc", "<p>a<br>b<br>c</p>"],
    ["a\r\nb\r\n\r\nc", "<p>a\nb</p><p>c</p>"],
    ["", ""],
    [" \n\n", ""],
  ],
  "emphasis, code and struck text": [
    ["*a* **b** ***c*** _d_ __e__ ~~f~~", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del></p>"],
    ["snake_case_name and 2 * 3 * 4", "<p>snake_case_name and 2 * 3 * 4</p>"],
    ["from ~5 to ~10", "<p>from ~5 to ~10</p>"],
    ["**a *b** c*", "<p><em><em>a <em>b</em></em> c</em></p>"],
    ["`a` ``b`c`` `*d*` `e", "<p><code>a</code> <code>b`c</code> <code>*d*</code> `e</p>"],
    ["\\*a\\* \\<b> \\q", "<p>*a* &lt;b> \\q</p>"],
    ["&amp; &lt;b&gt; &#65;&#x42; &hellip; &nosuch; &#0; &", "<p>&amp; &lt;b> AB … &amp;nosuch; \ufffd &amp;</p>"],
  ],
  "headings keep the page's outline": [
    ["# a\n## b\n### c\n#### d\n###### e", "<h3>a</h3><h4>b</h4><h5>c</h5><h6>d</h6><h6>e</h6>"],
    ["# a `b` #", "<h3>a <code>b</code></h3>"],
    ["#a", "<p>#a</p>"],
    ["a\n---\nb\n***\n- - -", "<p>a</p><hr><p>b</p><hr><hr>"],
  ],
  lists: [
    ["- a\n- b", "<ul><li>a</li><li>b</li></ul>"],
    ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
    ["1) a\n2. b", '<ol><li>a</li></ol><ol start="2"><li>b</li></ol>'],
    ["- a\n  - b\n    1. c\n- d", "<ul><li>a<ul><li>b<ol><li>c</li></ol></li></ul></li><li>d</li></ul>"],
    ["- a\n\n  b\n- c", "<ul><li><p>a</p><p>b</p></li><li><p>c</p></li></ul>"],
    ["- a\n\n  - b\n", "<ul><li><p>a</p><ul><li>b</li></ul></li></ul>"],
    ["- [ ] a\n- [x] **b**\n- [y] c", '<ul><li task="open">☐ a</li><li task="done">☑ <strong>b</strong></li><li>[y] c</li></ul>'],
    ["- ```js\n  a\n  ```\n  > b", '<ul><li><pre lang="js">a</pre><blockquote><p>b</p></blockquote></li></ul>'],
    ["In the year\n1986. What?", "<p>In the year\n1986. What?</p>"],
    ["-\n- a\n*", "<ul><li></li><li>a</li></ul><ul><li></li></ul>"],
  ],
  "code keeps what is in it": [
    ["```rust ignore\nfn a() {}\n\n\t<b> **c**\n```\nd", '<pre lang="rust">fn a() {}\n\n\t&lt;b> **c**</pre><p>d</p>'],
    ["~~~\n```\n~~~", '<pre lang="">```</pre>'],
    ["```\nopen", '<pre lang="">open</pre>'],
    ["a\n\n    b\n\n      c\n\nd", '<p>a</p><pre lang="">b\n\n  c</pre><p>d</p>'],
    ["  ```\n  a\n b\n  ```", '<pre lang="">a\nb</pre>'],
  ],
  quotes: [
    ["> a\nb\n> > c\n\nd", "<blockquote><p>a\nb</p><blockquote><p>c</p></blockquote></blockquote><p>d</p>"],
    ["> - a\n> - b", "<blockquote><ul><li>a</li><li>b</li></ul></blockquote>"],
  ],
  tables: [
    [
      "| a | b | c |\n|:--|:-:|--:|\n| 1 | **2** | `x \\| y` |\n| 4 |\n\nd",
      '<table><thead><tr><th align="left">a</th><th align="center">b</th><th align="right">c</th></tr></thead>' +
        '<tbody><tr><td align="left">1</td><td align="center"><strong>2</strong></td><td align="right"><code>x | y</code></td></tr>' +
        '<tr><td align="left">4</td></tr></tbody></table><p>d</p>',
    ],
    ["a | b\n--|--\n1 | 2 | 3", "<table><thead><tr><th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>2 | 3</td></tr></tbody></table>"],
    ["t\n| a |\n|---|", "<p>t</p><table><thead><tr><th>a</th></tr></thead></table>"],
    ["| a | b |\n|---|", "<p>| a | b |\n|---|</p>"],
    ["- | a |\n  |---|\n  | 1 |", "<ul><li><table><thead><tr><th>a</th></tr></thead><tbody><tr><td>1</td></tr></tbody></table></li></ul>"],
  ],
  "links by the policy": [
    ['[a *b*](https://acme.example/x "t")', '<p><a href="https://acme.example/x" title="t">a <em>b</em></a></p>'],
    ["[a](https://evil.example/x)", "<p>a (https://evil.example/x)</p>"],
    ["[https://evil.example/](https://evil.example/)", "<p>https://evil.example/</p>"],
    ["[a](javascript:alert(1))", "<p>a (javascript:alert(1))</p>"],
    ["[a](java\tscript:alert(1))", "<p>[a](java\tscript:alert(1))</p>"],
    ["[a](javascript&#58;alert(1))", "<p>a (javascript:alert(1))</p>"],
    ["[a](data:text/html,x) [b](vbscript:x) [c](file:///etc)", "<p>a (data:text/html,x) b (vbscript:x) c (file:///etc)</p>"],
    ["[a](//evil.example) [b](/x) [c](#d) [e]()", "<p>a (//evil.example) b (/x) c (#d) e</p>"],
    ["[a](https://acme.example@evil.example/)", "<p>a (https://acme.example@evil.example/)</p>"],
    ["[a](https://u:p@acme.example/)", "<p>a (https://u:p@acme.example/)</p>"],
    ["[a](HTTPS://ACME.example:443/%3Cb>)", '<p><a href="https://acme.example/%3Cb%3E">a</a></p>'],
    ["[](https://acme.example/)", '<p><a href="https://acme.example/">https://acme.example/</a></p>'],
    ["[a [b](https://acme.example/)](https://acme.example/c)", '<p>[a <a href="https://acme.example/">b</a>](<a href="https://acme.example/c">https://acme.example/c</a>)</p>'],
    ["[a\u202e](https://acme.example/)", '<p><a href="https://acme.example/">a</a></p>'],
    ["<https://acme.example/a> <ada@acme.example> <b>", '<p><a href="https://acme.example/a">https://acme.example/a</a> <a href="mailto:ada@acme.example">ada@acme.example</a> &lt;b></p>'],
    ["See https://acme.example/a(b), or (www.acme.example).", '<p>See <a href="https://acme.example/a(b)">https://acme.example/a(b)</a>, or (<a href="https://www.acme.example/">www.acme.example</a>).</p>', "https://www.acme.example"],
    ["https://evil.example/a who@acme.example", '<p>https://evil.example/a <a href="mailto:who@acme.example">who@acme.example</a></p>'],
    ["詳細はhttps://acme.example/a。", '<p>詳細は<a href="https://acme.example/a">https://acme.example/a</a>。</p>'],
    ["[a](https://acme.example/", '<p>[a](<a href="https://acme.example/">https://acme.example/</a></p>'],
    ["[a][b]\n\n[b]: https://acme.example/", '<p>[a][b]</p><p>[b]: <a href="https://acme.example/">https://acme.example/</a></p>'],
  ],
  "characters for private use mark places": [
    ["**Bold.**\ue100 next \ue101**bold**", "<p><strong>Bold.</strong>\ue100 next \ue101<strong>bold</strong></p>"],
    ["https://acme.example/a\ue100", '<p><a href="https://acme.example/a">https://acme.example/a</a>\ue100</p>'],
  ],
  "images by the policy": [
    ["![a **b**](https://img.example/x.png)", '<p><img src="https://img.example/x.png" alt="a b"></p>'],
    ["![a](https://evil.example/x.png?q=secret)", "<p>a (https://evil.example/x.png?q=secret)</p>"],
    ["![](data:image/svg+xml,x)", "<p>data:image/svg+xml,x</p>"],
    ["[![a](https://img.example/x)](https://acme.example/)", '<p><a href="https://acme.example/"><img src="https://img.example/x" alt="a"></a></p>'],
  ],
  "HTML is text": [
    ["<b>a</b> <!-- c --> <img src=x onerror=alert(1)>", "<p>&lt;b>a&lt;/b> &lt;!-- c --> &lt;img src=x onerror=alert(1)></p>"],
    ["<div>\n\n*a*\n\n</div>", "<p>&lt;div></p><p><em>a</em></p><p>&lt;/div></p>"],
  ],
};

for (const [name, rows] of Object.entries(TABLES))
  test(name, () => {
    for (const [text, expected, origin] of rows) {
      const links = (url) => policy.links(url) || url.origin === origin;
      assert.equal(html(parse(text, { ...policy, links })), expected, text);
    }
  });

test("relative addresses are relative to the base, and the policy is asked about the result", () => {
  const based = { ...policy, base: "https://acme.example/app/" };
  assert.equal(html(parse("[a](settings#b) [c](//evil.example/d)", based)), '<p><a href="https://acme.example/app/settings#b">a</a> c (https://evil.example/d)</p>');
});
