/** y = -x over one float: loads and runs wherever the device itself works. */
export const PROBE_MODEL: Uint8Array = Buffer.from(
  'CAo6NwoNCgF4EgF5IgNOZWc6ABIEdGlueVoPCgF4EgoKCAgBEgQKAggBYg8KAXkSCgoICAESBAoCCAFCBAoAEBVCEQoNY29tLm1pY3Jvc29mdBAB',
  'base64',
);
