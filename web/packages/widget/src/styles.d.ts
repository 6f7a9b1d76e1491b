// The build puts the text of a style sheet in place of its import.
declare module "*.css" {
  const text: string;
  export default text;
}
