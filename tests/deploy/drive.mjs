// Serves a page on this machine and asks it in headless Chromium: node drive.mjs APP PAGE ORT PICTURE …
import fs from 'node:fs'
import http from 'node:http'
import os from 'node:os'
import path from 'node:path'
import { createRequire } from 'node:module'

const [app, page, modules, ...pictures] = process.argv.slice(2)
const { chromium } = createRequire(path.join(modules, 'x'))('playwright-core')
const ort = path.join(modules, 'onnxruntime-web', 'dist')
const kinds = { '.html': 'text/html', '.mjs': 'text/javascript', '.wasm': 'application/wasm' }
const server = http.createServer((request, response) => {
  const url = decodeURIComponent(request.url)
  const file = url.startsWith('/ort/') ? path.join(ort, url.slice(5))
    : url.startsWith('/picture/') ? pictures[Number(url.slice(9))] : path.join(app, url)
  response.setHeader('content-type', kinds[path.extname(file)] ?? 'application/octet-stream')
  if (fs.existsSync(file) && fs.statSync(file).isFile()) fs.createReadStream(file).pipe(response)
  else response.writeHead(404).end()
})
await new Promise(done => server.listen(0, '127.0.0.1', done))
const profile = fs.mkdtempSync(path.join(os.tmpdir(), 'chromium-'))
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: process.env.CHROMIUM, headless: true, timeout: 120000,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
})
try {
  const tab = await browser.newPage()
  tab.on('pageerror', error => console.error(String(error)))
  await tab.goto(`http://127.0.0.1:${server.address().port}/${page}`)
  await tab.waitForFunction('globalThis.told', null, { timeout: 120000 })
  for (const [number, picture] of pictures.entries()) {
    const told = await tab.evaluate(async url => globalThis.told(await (await fetch(url)).blob()), `/picture/${number}`)
    console.log(`${picture}\t${told}`)
  }
} finally {
  await browser.close()
  server.close()
  fs.rmSync(profile, { recursive: true, force: true })
}
