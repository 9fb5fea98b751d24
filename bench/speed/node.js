// SPDX-License-Identifier: GPL-3.0-or-later
// The echo for Node: node.js PROCESSES. A cluster of which each process has a socket of its own, echo_NN.sock.
'use strict'
const cluster = require('cluster')
const http = require('http')

if (cluster.isPrimary) {
  for (let slot = 0; slot < Number(process.argv[2]); slot++) {
    cluster.fork({ SOCKET: `echo_${String(slot).padStart(2, '0')}.sock` })
  }
  process.on('SIGTERM', () => process.exit())
} else {
  const { WebSocketServer } = require('ws')
  const server = http.createServer()
  // As websockets has it by default: windows of 12 bits, memory level 5, and every message is compressed.
  const perMessageDeflate = {
    serverMaxWindowBits: 12,
    clientMaxWindowBits: 12,
    threshold: 0,
    zlibDeflateOptions: { memLevel: 5 }
  }
  const sockets = new WebSocketServer({ server, perMessageDeflate, maxPayload: 2 ** 20 })
  sockets.on('connection', (socket) => {
    socket.on('message', (data, binary) => socket.send(data, { binary }))
  })
  server.listen({ path: process.env.SOCKET, exclusive: true, writableAll: true, readableAll: true })
}
