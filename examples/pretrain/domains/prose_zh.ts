// Short Chinese sentences about everyday life: they give the tokenizer and the embeddings a second script.
// The answer to a question stands in its sentence.
import type { Rng } from "../rng.ts";
import { chatRow, drawAccepted, type Domain, type Fact } from "./types.ts";

const PEOPLE = [
  "小明",
  "小红",
  "老师",
  "妈妈",
  "爸爸",
  "爷爷",
  "奶奶",
  "哥哥",
  "妹妹",
  "朋友",
  "同学",
  "医生",
  "王先生",
  "李小姐",
  "张老师",
] as const;
const CITIES = ["北京", "上海", "广州", "成都", "南京", "西安", "杭州", "武汉", "天津", "重庆", "香港", "长沙", "大连", "青岛"] as const;
const COUNTRIES = ["中国", "美国", "英国", "法国", "日本", "韩国", "德国"] as const;
const TIMES = [
  "今天",
  "明天",
  "昨天",
  "周一",
  "周六",
  "星期天",
  "早上",
  "上午",
  "中午",
  "下午",
  "晚上",
  "今晚",
  "每天",
  "这个月",
  "下个月",
  "去年",
] as const;
const WEATHER = ["很好", "不好", "很热", "很冷", "多云", "有小雨", "有大雪", "会下雨", "有大风", "是晴天"] as const;
const SKY = ["气温是", "最高温度是", "最低温度是"] as const;
const ROOMS = ["客厅", "卧室", "厨房", "书房", "房间"] as const;
const DEVICES = ["空调", "电视", "电灯", "风扇", "热水器", "洗衣机", "空气净化器", "音响", "窗帘", "冰箱", "加湿器", "扫地机器人"] as const;
const SWITCH = ["打开了", "关闭了", "开了", "关上了", "调高了", "调低了", "换了新的"] as const;
const SHOWS = ["电影", "电视剧", "动画片", "纪录片", "比赛", "新闻", "节目", "视频", "综艺"] as const;
const SOUNDS = ["歌曲", "音乐", "广播", "故事", "相声", "钢琴曲", "老歌", "民歌", "小说", "电台"] as const;
const STYLES = ["好听的", "流行的", "经典的", "古典的", "安静的", "快乐的", "有意思的", "搞笑的", "最新的", "外国的"] as const;
const VEHICLES = ["火车", "飞机", "高铁", "汽车", "地铁", "公交车"] as const;
const ERRANDS = [
  "开会",
  "吃药",
  "买菜",
  "上课",
  "起床",
  "看书",
  "跑步",
  "做饭",
  "打电话",
  "写作业",
  "去学校",
  "接孩子",
  "还钱",
  "洗衣服",
] as const;
const FESTIVALS = ["春节", "中秋节", "国庆节", "元旦", "生日", "端午节", "儿童节"] as const;
// Word pools for general sentences: they bring in several hundred more characters.
const DOING = [
  "分析这句话的意图",
  "把句子转化为别的格式",
  "写下正确的答案",
  "查询火车的时间",
  "搜索附近的银行",
  "设置新的密码",
  "取消周末的计划",
  "参加学校的运动会",
  "修改昨天的作文",
  "整理桌子和椅子",
  "学习英语和数学",
  "欣赏草原上的音乐会",
  "预订酒店和机票",
  "寄一封长信",
  "打扫院子",
  "给花浇水",
  "照顾小狗小猫",
  "拍几张风景照片",
  "画一幅山水画",
  "锻炼身体",
  "准备考试",
  "讨论工作的问题",
  "检查电脑的声音",
  "关心老人的健康",
  "选择合适的颜色",
  "解释这个词语的意思",
  "记录每次会议的内容",
  "介绍自己的家乡",
  "继续完成任务",
  "删除没用的文件",
  "领取新到的快递",
  "交水费和电费",
  "换一个更亮的灯泡",
  "存五百块钱",
  "唱一首欢快的歌",
  "演奏二胡和吉他",
  "观察天上的星星和月亮",
] as const;
const BECAUSE = [
  "时间还早",
  "路上太堵了",
  "外面正在下雪",
  "大家都很感兴趣",
  "价格比较便宜",
  "他身体不舒服",
  "明年就要毕业了",
  "空气非常湿润",
  "阳光照进窗户",
  "比赛马上结束",
  "机器突然停止工作",
  "孩子们已经睡着了",
  "那里的风景特别美",
  "最近的事情很多",
  "客人快到门口了",
  "声音实在太大",
  "服务态度不错",
  "紫外线很强",
  "能见度很低",
  "湿度有些高",
  "秋天的海边很凉快",
  "春天到处是红花绿叶",
  "手机没有电了",
  "房子离公司很远",
] as const;
const NATURE = [
  "黄河和长江",
  "东北的森林",
  "云南的古城",
  "四川的大熊猫",
  "湖南的小镇",
  "福建的茶叶",
  "山西的老街",
  "贵州的瀑布",
  "台湾的水果",
  "新疆的葡萄",
  "西藏的雪山",
  "海南的沙滩",
  "江苏的园林",
  "浙江的龙井",
  "安徽的黄山",
  "河北的草地",
  "陕西的面食",
  "内蒙古的羊群",
  "深圳的高楼",
  "厦门的小岛",
  "哈尔滨的冰灯",
  "昆明的鲜花",
  "苏州的石桥",
  "济南的泉水",
  "沈阳的故宫",
  "巴黎的铁塔",
  "伦敦的大钟",
  "东京的樱花",
  "欧洲的教堂",
  "非洲的狮子",
] as const;
const WORKS = [
  "喜剧片",
  "爱情片",
  "科幻片",
  "战争片",
  "武侠剧",
  "历史剧",
  "儿童歌",
  "摇滚乐",
  "流行歌",
  "交响乐",
  "评书",
  "戏曲",
  "舞蹈",
  "足球赛",
  "篮球赛",
  "脱口秀",
  "广告",
  "预告片",
  "第一季",
  "最后一集",
  "主题曲",
  "专辑",
  "传奇故事",
  "童话",
  "有声书",
  "体育频道",
  "交通台",
  "调频九十八点五",
] as const;
const NUMERALS = ["一", "二", "三", "四", "五", "六", "七", "八", "九", "十", "十一", "十二"] as const;

interface Told {
  readonly sentence: string;
  readonly question: string;
  readonly answer: string;
}

const SENTENCES: readonly ((rng: Rng) => Told)[] = [
  (rng) => {
    const [time, city, weather] = [rng.pick(TIMES), rng.pick(CITIES), rng.pick(WEATHER)];
    return { sentence: `${time}${city}的天气${weather}。`, question: `哪里的天气${weather}？`, answer: `${city}。` };
  },
  (rng) => {
    const [city, degrees, sky] = [rng.pick(CITIES), rng.int(1, 36), rng.pick(SKY)];
    return { sentence: `${city}的${sky}${degrees}度。`, question: `${city}的${sky.slice(0, -1)}是多少？`, answer: `${degrees}度。` };
  },
  (rng) => {
    const [who, room, device, did] = [rng.pick(PEOPLE), rng.pick(ROOMS), rng.pick(DEVICES), rng.pick(SWITCH)];
    return { sentence: `${who}把${room}的${device}${did}。`, question: `${device}在哪里？`, answer: `在${room}。` };
  },
  (rng) => {
    const [who, time, style, show, land] = [rng.pick(PEOPLE), rng.pick(TIMES), rng.pick(STYLES), rng.pick(SHOWS), rng.pick(COUNTRIES)];
    return { sentence: `${time}${who}想看一部${style}${land}${show}。`, question: `谁想看${show}？`, answer: `${who}。` };
  },
  (rng) => {
    const [who, style, sound] = [rng.pick(PEOPLE), rng.pick(STYLES), rng.pick(SOUNDS)];
    return { sentence: `${who}喜欢听${style}${sound}，我们一起播放吧。`, question: `${who}喜欢听什么？`, answer: `${style}${sound}。` };
  },
  (rng) => {
    const [time, hour, errand] = [rng.pick(["上午", "下午", "晚上"] as const), rng.pick(NUMERALS), rng.pick(ERRANDS)];
    return {
      sentence: `闹钟在${time}${hour}点提醒我去${errand.replace(/^去/, "")}。`,
      question: "闹钟提醒我做什么？",
      answer: `${errand.replace(/^去/, "")}。`,
    };
  },
  (rng) => {
    const [from, to] = rng.sample(CITIES, 2) as [string, string];
    const [who, vehicle, time] = [rng.pick(PEOPLE), rng.pick(VEHICLES), rng.pick(TIMES)];
    return { sentence: `${who}${time}坐${vehicle}从${from}到${to}，票已经买好了。`, question: `${who}要去哪里？`, answer: `去${to}。` };
  },
  (rng) => {
    const [festival, month, day] = [rng.pick(FESTIVALS), rng.int(1, 12), rng.int(1, 28)];
    return {
      sentence: `他们说${festival}是${month}月${day}号，可以休息几天。`,
      question: `${festival}是几月几号？`,
      answer: `${month}月${day}号。`,
    };
  },
  (rng) => {
    const [who, doing, because] = [rng.pick(PEOPLE), rng.pick(DOING), rng.pick(BECAUSE)];
    return { sentence: `因为${because}，所以${who}要${doing}。`, question: `${who}为什么要这样做？`, answer: `因为${because}。` };
  },
  (rng) => {
    const [who, doing, time] = [rng.pick(PEOPLE), rng.pick(DOING), rng.pick(TIMES)];
    return { sentence: `${time}${who}帮我${doing}。`, question: `${who}帮我做什么？`, answer: `${doing}。` };
  },
  (rng) => {
    const [who, nature, time] = [rng.pick(PEOPLE), rng.pick(NATURE), rng.pick(TIMES)];
    return { sentence: `${time}${who}在书里看到了${nature}。`, question: `${who}看到了什么？`, answer: `${nature}。` };
  },
  (rng) => {
    const [who, work, other] = [rng.pick(PEOPLE), ...(rng.sample(WORKS, 2) as [string, string])];
    return { sentence: `${who}不想要${work}，请换成${other}。`, question: `应该换成什么？`, answer: `${other}。` };
  },
  (rng) => {
    const [minutes, channel] = [rng.int(2, 50), rng.int(1, 12)];
    const show = rng.pick(SHOWS);
    return {
      sentence: `请不要换台，第${channel}频道的${show}还有${minutes}分钟开始。`,
      question: `${show}在第几频道？`,
      answer: `第${channel}频道。`,
    };
  },
];

export const proseZh: Domain = {
  name: "prose_zh",
  about: "short Chinese sentences about everyday life and questions about them",
  make(rng, accept) {
    const draw = (): Fact & Told => {
      const told = rng.pick(SENTENCES)(rng);
      return { ...told, key: told.sentence };
    };
    if (rng.chance(0.6)) {
      return { text: Array.from({ length: rng.int(2, 4) }, () => drawAccepted(draw, accept).sentence).join("") };
    }
    const facts = Array.from({ length: rng.int(1, 2) }, () => drawAccepted(draw, accept));
    return chatRow(facts.map((fact) => ({ ...fact, question: fact.sentence + fact.question })));
  },
};
