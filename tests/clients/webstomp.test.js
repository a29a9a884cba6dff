import { webstompClient } from './adapters/webstomp.js';
import { converse } from './suite.js';

converse(webstompClient);
