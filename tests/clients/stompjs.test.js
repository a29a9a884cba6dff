import WebSocket from 'ws';
import { stompjs } from './adapters/stompjs.js';
import { converse } from './suite.js';

converse(stompjs(WebSocket));
