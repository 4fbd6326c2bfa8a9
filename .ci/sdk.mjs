// Drives the gateway with the official TypeScript SDK, unmodified, and prints what it saw as one line of JSON.
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
const require = createRequire(process.env.SDK_FROM + '/')
const { default: Anthropic } = await import(pathToFileURL(require.resolve('@anthropic-ai/sdk')).href).then((m) => (m.default?.default ? m.default : m))

const make = (more = {}) => new Anthropic({ baseURL: process.env.BASE, apiKey: process.env.KEY, maxRetries: 0, ...more })
const client = make()
const model = 'claude-sonnet-4-5'
const ask = (content, more = {}) => ({ model, max_tokens: 1000, messages: [{ role: 'user', content }], ...more })
const tools = [{ name: 'lookup', description: 'Looks up', input_schema: { type: 'object', properties: { id: { type: 'integer' } } } }]
const out = {}
const failure = async (run) => {
  try {
    await run()
    return { name: 'none' }
  } catch (e) {
    return { name: e.constructor.name, status: e.status, type: e.error?.error?.type, requestID: typeof e.requestID === 'string' }
  }
}

const plain = await client.messages.create(ask('!say plain'))
out.plain = { text: plain.content[0].text, usage: plain.usage.output_tokens > 0, stop: plain.stop_reason, id: typeof plain._request_id === 'string' }

let pieces = ''
const stream = client.messages.stream(ask('!say streamed in several pieces, one after the other\n!tokens 60')).on('text', (t) => { pieces += t })
const final = await stream.finalMessage()
out.stream = { same: pieces === final.content[0].text, pieces: pieces.length, stop: final.stop_reason, usage: final.usage.output_tokens }

const events = []
for await (const e of await client.messages.create(ask('!say raw', { stream: true }))) events.push(e.type)
out.events = [...new Set(events)]

const first = await client.messages.stream(ask('!tool lookup {"id":7}\n!say found it', { tools })).finalMessage()
const use = first.content.find((b) => b.type === 'tool_use')
out.tool = { stop: first.stop_reason, name: use.name, input: use.input }
const second = await client.messages.create({ model, max_tokens: 1000, tools, messages: [
  { role: 'user', content: '!tool lookup {"id":7}\n!say found it' }, { role: 'assistant', content: first.content },
  { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: 'seven' }] }] })
out.toolResult = second.content[0].text

out.count = (await client.messages.countTokens({ model, messages: [{ role: 'user', content: 'how many' }] })).input_tokens > 0
out.badKey = await failure(() => make({ apiKey: 'trk_wrong' }).messages.create(ask('!say x')))
out.badRequest = await failure(() => client.messages.create(ask('!fail 400')))
out.limited = await failure(() => client.messages.create(ask('!fail 429')))
out.overloaded = await failure(() => client.messages.create(ask('!fail 529')))
out.streamFails = await failure(() => client.messages.stream(ask('!fail 529')).finalMessage())
const abort = client.messages.stream(ask('!slow 20s\n!say never'))
setTimeout(() => abort.abort(), 200)
out.aborted = await failure(() => abort.finalMessage())
let tries = 0
out.retried = await failure(() => make({ maxRetries: 2, fetch: (...a) => { tries++; return fetch(...a) } }).messages.create(ask('!fail 503')))
out.tries = tries
console.log(JSON.stringify(out))
