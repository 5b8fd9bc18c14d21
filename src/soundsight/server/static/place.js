/** Where the server is: its addresses lie beside the folder of this script, at whatever path. */

/**
 * @param {string} path of the server, such as `/v1/stream`
 * @returns {URL}
 */
export function address(path) {
  return new URL(`..${path}`, import.meta.url);
}
